"""`coda serve` under load, against the same tokenizer called in one process."""
