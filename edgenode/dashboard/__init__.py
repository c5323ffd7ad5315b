"""The controller's web page: one page, server-sent events, the operator's wishes; nothing is loaded from elsewhere."""
