"""People and programs are served: the page, the API, Immich's protocol and the Model Context Protocol."""
