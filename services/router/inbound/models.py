"""Lists models to callers whom Check has told apart, in our own API and in OpenAI's.

Reached through Envoy over the router's own socket only, so the tenant header is Check's word.
"""

from collections.abc import Callable
from typing import Any

import grpc

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.openai.v1 import models_service_pb2 as openai_pb
from evenflow.openai.v1.models_service_pb2_grpc import (
    ModelsServiceServicer as OpenAIModelsServiceServicer,
)
from services.chassis.status import ErrorTable, Status
from services.router.core.endpoints import Endpoints
from services.router.core.models import Catalogue, ModelNotFound, ServedModel
from services.router.core.tenants import PolicyView, Tenant


class UnknownTenant(PermissionError):
    """Nobody's request: Check has named no tenant, or policy knows it no more."""


ERRORS: ErrorTable = {
    UnknownTenant: Status(grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_IDENTITY"),
    ModelNotFound: Status(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
}


class Models:
    """What both APIs list."""

    def __init__(
        self,
        policy: PolicyView,
        endpoints: Endpoints,
        catalogue: Catalogue,
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._endpoints = endpoints
        self._catalogue = catalogue
        self._clock = clock

    def list(self, context: grpc.aio.ServicerContext) -> list[ServedModel]:
        return list(self._catalogue.served_to(self._tenant(context), self._endpoints.all()))

    def get(self, name: str, context: grpc.aio.ServicerContext) -> ServedModel:
        return self._catalogue.get(name, self._tenant(context), self._endpoints.all())

    def _tenant(self, context: grpc.aio.ServicerContext) -> Tenant:
        tenants = self._policy.current(self._clock())
        for key, value in context.invocation_metadata() or ():
            tenant = tenants.by_id(str(value)) if tenants and key == "x-evenflow-tenant" else None
            if tenant is not None:
                return tenant
        raise UnknownTenant("no tenant is known for this request")


class ModelsServicer:
    """The one method of InferenceService that the router answers; runtimes answer the others."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(  # noqa: N802 - the name is the proto's
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[
                pb.Model(
                    name=each.name,
                    versions=each.versions,
                    max_context_tokens=each.max_context_tokens,
                    endpoints=each.endpoints,
                )
                for each in self._models.list(context)
            ]
        )


def add_models_to_server(servicer: ModelsServicer, server: Any) -> None:
    method = grpc.unary_unary_rpc_method_handler(
        servicer.ListModels,
        request_deserializer=pb.ListModelsRequest.FromString,
        response_serializer=pb.ListModelsResponse.SerializeToString,
    )
    inference = grpc.method_handlers_generic_handler(
        "evenflow.inference.v1.InferenceService", {"ListModels": method}
    )
    server.add_generic_rpc_handlers((inference,))


class OpenAIModelsServicer(OpenAIModelsServiceServicer):
    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(  # noqa: N802 - the name is the proto's
        self, request: openai_pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> openai_pb.ListModelsResponse:
        served = self._models.list(context)
        return openai_pb.ListModelsResponse(object="list", data=[_openai(each) for each in served])

    async def GetModel(  # noqa: N802 - the name is the proto's
        self, request: openai_pb.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> openai_pb.GetModelResponse:
        model = self._models.get(request.model, context)
        return openai_pb.GetModelResponse(**_facts(model))


def _openai(model: ServedModel) -> openai_pb.Model:
    return openai_pb.Model(**_facts(model))


def _facts(model: ServedModel) -> dict[str, Any]:
    created = int(model.first_seen_unix_s)
    return {"id": model.name, "object": "model", "created": created, "owned_by": "evenflow"}
