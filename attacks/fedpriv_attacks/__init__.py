"""Privacy attacks: functions of a View."""
