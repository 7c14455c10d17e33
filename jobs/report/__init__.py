"""The report: one offline HTML file (`jobs.report.render.build_report`)."""
