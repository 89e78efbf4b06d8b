"""The gateway: a server of WebSocket System's protocol in front of a model server (extra `gateway`)."""
