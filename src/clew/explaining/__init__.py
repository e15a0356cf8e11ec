"""From a call to a result: inputs prepared, a method run, and what came out put in order."""
