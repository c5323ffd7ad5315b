"""What a run shows: status, metrics, events and notifications."""
