"""What several tests build with: no test is collected here."""
