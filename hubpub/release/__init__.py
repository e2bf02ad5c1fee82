"""What is published, as data: the outcome of a plan, the manifest, the card, the report page, and the rules of apps."""
