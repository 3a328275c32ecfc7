"""Parts: what attacks are composed of."""
