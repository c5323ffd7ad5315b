"""The outside view of a run: status, metrics, events and notifications."""
