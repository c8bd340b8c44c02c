"""The local front: the OpenAI HTTP API on a unix socket, one answer per request, whole or streamed."""
