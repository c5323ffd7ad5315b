"""Measurements of edgenode. A package, because opacus installs another one of this name, which would be found first."""
