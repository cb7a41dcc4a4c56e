"""What came out: one frozen `Result` for every engine, and what can be asked of it.

| file | what it answers |
|---|---|
| `data` | what did the engine draw, what did it cost: fields and their checks |
| `result` | `Result`, which has them: summary, concerns; save, load, hand to ArviZ |
| `plain_values` | which names and types can a result hold, asked before anything is drawn |
| `summary`, `weighted` | what do the draws say about one number, and how well: of equal weight, and of unequal |
| `health` | can it be trusted, and if not, what to do |
| `heavy_tails` | which parameters have no mean or sd that could be compared |
| `criteria` | how large a difference matters, and how sure a verdict has to be |
| `comparable`, `agreement`, `verdicts` | may results be compared, do engines agree, and what did each cost |
| `checked` | what several engines came to, look by look |
| `predictions` | draws of every site, in the sample and beyond it, with their dates |
| `uniformity` | are PIT values or ranks uniform: a band for all of their distribution function |
| `scores`, `scoring_rules` | how well were observations predicted from those before them; CRPS, PIT, errors of sums |
| `maximum` | where is the likelihood largest, how sure, and was it reached |
| `plots` | figures, one a file |
| `table`, `printing` | tables as text, Markdown and HTML; a result in ten lines |
| `densities` | how well each observation was predicted, at draws of the parameters |
| `layout` | in which group and with which dimensions is each array |
| `containers`, `storage` | ArviZ and netCDF, each known to one file |

A result knows nothing of the engine that made it, so results of any engine, saved or fresh, mix freely.  A new
statistic of the draws goes into `summary`, a new reason for doubt into `health`.
"""
