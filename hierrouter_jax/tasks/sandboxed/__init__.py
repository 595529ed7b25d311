"""The far side of the sandbox: what runs in the judge's and in the candidate's interpreter, standard library only."""
