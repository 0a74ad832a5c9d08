"""The WebSocket: jobs and statements in, routes and news out."""
