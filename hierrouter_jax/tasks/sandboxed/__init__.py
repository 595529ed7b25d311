"""The far side of the sandbox: code that runs in the judge's and in the candidate's interpreter. Standard library only."""
