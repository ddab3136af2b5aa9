from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow_transport import BrokerUrl, BrokerUrlError


def test_urls_are_taken_apart(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    assert BrokerUrl.parse("mqtt://pi") == BrokerUrl(host="pi", port=1883)
    assert BrokerUrl.parse("mqtts://pi/") == BrokerUrl(host="pi", port=8883, tls=True)
    assert BrokerUrl.parse("mqtt://u%40x:p%2Fw@[::1]:99") == BrokerUrl(
        host="::1", port=99, username="u@x", password="p/w"
    )
    assert BrokerUrl.parse(f"mqtts://pi?cafile={ca}").cafile == ca
    assert BrokerUrl.parse("mqtt://pi?protocol=3.1.1").protocols == ("3.1.1",)
    assert BrokerUrl.parse("mqtt://[::1]").place == "[::1]:1883"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "without mqtt:// cannot be understood"),
        ("pi:1883", "without mqtt:// cannot be understood"),
        ("http://pi", "starts with http://"),
        ("ws://pi", "starts with ws://"),
        ("mqtt://", "names no host"),
        ("mqtt://:1883", "names no host"),
        ("mqtt://pi:99999", "port or host in the broker URL is wrong"),
        ("mqtt://pi:x", "port or host in the broker URL is wrong"),
        ("mqtt://pi:0", "port 0"),
        ("mqtt://[::1", "port or host"),
        ("mqtt://pi/topic", "goes on after the port"),
        ("mqtt://pi?x=1", "the option 'x'"),
        ("mqtt://pi?cafile=/ca", "uses no TLS"),
        ("mqtts://pi?cafile=/no/such/file", "/no/such/file, is not a file"),
        ("mqtt://pi?protocol=4", "asks for MQTT '4'"),
    ],
)
def test_a_wrong_url_is_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(BrokerUrlError, match=sentence.replace("/", "/")):
        BrokerUrl.parse(url)


def test_a_password_is_never_printed() -> None:
    assert "geheim" not in repr(BrokerUrl.parse("mqtt://u:geheim@pi"))
    for wrong in ("mqtt://u:geheim@pi:x", "http://u:geheim@pi", "mqtt://u:geheim@pi/x", "u:geheim@pi"):
        with pytest.raises(BrokerUrlError) as caught:
            BrokerUrl.parse(wrong)
        assert "geheim" not in str(caught.value)
