"""What `ssmscan COMMAND` does; `ssmscan.__main__` reads the words and comes here.

| file | what it does |
|---|---|
| `columns` | reads a CSV file: numbers by column, dates, and errors that name file, line and column |
| `user_model` | imports the user's file, and gives its model the data by the names of its arguments |
| `facts` | what is to know of the data before any model: gaps, dates, columns that do not vary |
| `suitable` | which engines run a model, and which to start with |
| `prior_look` | what the model makes of its prior: data like those observed, and whether a filter starves |
| `commands` | `ssmscan trace`, `check` and `selftest`, from a file to what is printed and the exit status |

A command returns its exit status: 0 where nothing speaks against the model, 1 where something does, 2 where it was
asked wrongly (a file that is not there, a column without numbers), which is a `UsageError`.
"""
