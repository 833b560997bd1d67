"""The workload classes as numbers on the wire."""

from collections.abc import Mapping

from evenflow.inference.v1 import workload_class_pb2 as pb
from services.router.core.demands import WorkloadClass

WORKLOAD_CLASSES: Mapping[int, WorkloadClass] = {
    pb.WORKLOAD_CLASS_INTERACTIVE: WorkloadClass.INTERACTIVE,
    pb.WORKLOAD_CLASS_BATCH: WorkloadClass.BATCH,
    pb.WORKLOAD_CLASS_HIGH_RISK: WorkloadClass.HIGH_RISK,
}
