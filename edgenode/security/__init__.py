"""Who may speak, and how it proves it: certificates, invites, roles and files that others cannot read."""
