"""What the transport costs: a model to many, idle clients, empty rounds, many updates, a bad link."""
