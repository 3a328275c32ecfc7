"""The TFF engine, and all that knows what TFF offers under which name."""
