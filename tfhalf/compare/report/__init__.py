"""What a comparison says to a person: lines for a terminal, Markdown, and one HTML file with its pictures inside."""
