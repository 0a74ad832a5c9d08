"""The state of the router: health, metrics, findings."""
