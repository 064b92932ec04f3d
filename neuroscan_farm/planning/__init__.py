"""From a request to a plan, without weights and without torch: model facts, packing, the estimate of cost."""
