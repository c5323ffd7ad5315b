"""The controller's web page: one page with an event stream and operator requests. It loads nothing from other hosts."""
