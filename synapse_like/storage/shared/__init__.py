"""One database for several processes of the server, each of which may do anything.

What one of them writes must not go against what another writes at the same time; and each must hear of what the others
have committed, soon and in the right order.

- For each room, and for all the rest, one process writes at a time: `lanes.py`. What a transaction holds, and changes
  for others, is its turn: `turns.py`.
- What others have to know of a commit stands in a table: `commit_log.py`. Before a process writes, it learns what has
  happened there, and with a commit it tells the others that there is something to read: `holder.py`.
- A thread of each process hears that, and reads: `listener.py`. What it hears beside leaves no trace: `passing.py`.
- What cannot wait is known at once to all processes of one machine: `machine.py`.
- Each process publishes all commits, its own and the others', in one order: `order.py`.
"""
