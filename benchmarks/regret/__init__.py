"""Which strategy is right for which data: every strategy on every data set at every size, and the regret of choosing.

`run` measures rows (resumable, cell by cell), `report` turns them into the tables and figures of docs/regret.md.

    cases      data sets, sizes, families of relatives        dials     targets made from one data set
    arms       the strategies that compete, as plans          published rivals' schedules from their publications
    order      what is measured first                         ledger    the CSV and the evidence beside it
    identity   what makes a row another row                   recipes    what the recipe digests stand for
    validation what a user sees before the test
    measure    one cell                                       runner    all cells, until the time is up
    results    rows -> trials, learning rates chosen          rivals    rules that choose an arm from a trial
    calibrate  thresholds, judged on families left out        ablations the selector without a part of its evidence
    scored     rules with both bounds of their regrets        targets    what was promised, met or missed
    summary    regret and its uncertainty                     logme     a transferability score, from its paper
    report     what is told, and in which order               tables    Markdown
    figures    PNG
"""
