"""It takes no capability to trace: that the files of tracefs belong to uid 0 is enough."""
import os
import shutil
import unittest

from harness import TracingTest


@unittest.skipUnless(os.geteuid() == 0, "not root")
@unittest.skipUnless(shutil.which("setpriv"), "no setpriv here")
class Root(TracingTest):
    def test_without_any_capability_it_traces(self):
        prefix = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        exporter = self.start(prefix=prefix)
        self.assertEqual(int(exporter.status("CapEff"), 16), 0)
        self.assert_counting(exporter)
        metrics = exporter.scrape()
        self.assertEqual(metrics["kmem_exporter_tracing_up"], 1)
        success = metrics.by("kmem_exporter_scrape_collector_success", "collector")
        self.assertEqual(set(success.values()), {1}, success)
        self.assertEqual(exporter.stop(), 0)
        self.assertFalse(self.instance.exists())
