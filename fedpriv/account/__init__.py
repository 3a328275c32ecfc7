"""Account: the formal privacy account."""
