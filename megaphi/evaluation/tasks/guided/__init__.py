"""Questions graded by a guide: a judge goes through written criteria, with reasons before points, in two passes.

In the spirit of PhiBench (Phi-4's technical report, section 5), whose questions and guides were never published.
`examples/guided_questions` has ours.
"""
