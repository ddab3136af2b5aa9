"""A run as one HTML page."""

from hedgerow.report.facts import RunFacts, collect_facts
from hedgerow.report.page import render_page, write_page

__all__ = ["RunFacts", "collect_facts", "render_page", "write_page"]
