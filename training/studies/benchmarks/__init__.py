"""What training costs, each measure a command of its own."""
