"""What the tests of other people's clients share: a browser."""

from tests.support.shared_chromium import chrome, chromium_address, driven_chromium, profile, standing_profile

__all__ = ["chrome", "chromium_address", "driven_chromium", "profile", "standing_profile"]  # fixtures
