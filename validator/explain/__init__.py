"""Why a trace looks valid or invalid: its graphs, its deviations, its neighbours, its score.

:func:`validator.explain.trace.explain_trace` makes one :class:`validator.explain.data.Explanation`;
:func:`validator.report.explain_page.write_explain_page` shows it.
"""
