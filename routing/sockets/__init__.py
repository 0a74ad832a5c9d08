"""The WebSockets, which receive jobs and statements, and send routes and news."""
