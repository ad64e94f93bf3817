"""Large bodies and images, read by processes of their own."""
