"""What makes the course into a workshop and a site; nothing in the course needs it."""
