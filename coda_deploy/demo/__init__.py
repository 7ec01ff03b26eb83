"""`coda demo`: the whole pipeline on the sample tokenizer and sample photographs, and a report of what came out."""

from coda_deploy.demo.run import run_demo

__all__ = ["run_demo"]
