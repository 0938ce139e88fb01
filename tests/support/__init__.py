"""What many test files share."""
