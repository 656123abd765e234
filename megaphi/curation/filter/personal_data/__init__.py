"""Masking of personal data: kinds with their patterns and checks, and the step that replaces what they find."""
