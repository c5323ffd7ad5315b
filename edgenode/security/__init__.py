"""Certificates, invites, roles and secret files: they decide who may speak, and prove who does."""
