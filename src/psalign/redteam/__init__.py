"""Attacks on the limits of users: by the prompt, and by the profile; measured like any other set of prompts."""
