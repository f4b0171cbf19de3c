"""Ablations on the embedded corpus: the demo's student with one change at a time, over several seeds.

An arm is one configuration; all arms of a comparison train for the same number of steps.

    options.py       options of the three commands
    stage1.py        command: choices of stage 1
    stage1_runs.py   its arms and training runs
    stage2.py        command: loss terms of stage 2
    stage2_runs.py   its arms and training runs
    pairs.py         command: fewer pairs in stage 2
    pairs_arms.py    its arms, trained as those of stage 2
    multilingual.py  a teacher with a multilingual vocabulary, for stage 1
    comparison.py    training, collecting and writing, shared by the commands
    arms.py          table and plot of all arms
"""
