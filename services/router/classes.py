"""The workload classes as numbers on the wire."""

from collections.abc import Mapping

from evenflow.inference.v1 import workload_class_pb2 as pb
from services.router.core.demands import WorkloadClass

NUMBERS: Mapping[WorkloadClass, pb.WorkloadClass.ValueType] = {
    WorkloadClass.INTERACTIVE: pb.WORKLOAD_CLASS_INTERACTIVE,
    WorkloadClass.BATCH: pb.WORKLOAD_CLASS_BATCH,
    WorkloadClass.HIGH_RISK: pb.WORKLOAD_CLASS_HIGH_RISK,
}
WORKLOAD_CLASSES: Mapping[int, WorkloadClass] = {
    number: workload_class for workload_class, number in NUMBERS.items()
}
