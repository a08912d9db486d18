// A caller in TypeScript, by the generated types alone: no cast, no `any`.

import createClient from "openapi-fetch";

import type { components, paths } from "./api.js";
import { pages } from "./pages.js"; // the requests that README and docs/api.md show

type Told = { status: number; items: (string | number)[]; kind: string | null };

const told = (
  response: Response,
  data?: components["schemas"]["RankResponse"],
  error?: components["schemas"]["ErrorResponse"],
): Told => ({
  status: response.status,
  items: data?.items.map((item) => item.item_id) ?? [],
  kind: error?.error.kind ?? null,
});

export async function main(url: string) {
  const client = createClient<paths>({ baseUrl: url });

  const readme = await client.POST("/rank", {
    body: {
      user_id: "u720",
      candidates: ["i586", "i390", { item_id: "i425", category_id: "c9" }, "i321"],
      top_k: 3,
    },
  });
  const shown = await Promise.all(pages.map((body) => client.POST("/rank", { body })));
  const features = await client.POST("/rank", {
    params: { header: { "X-Request-Id": "typescript-1" } },
    body: {
      user_id: "u720",
      candidates: ["i586", { item_id: "i390", position: 2 }],
      context: { page: 1 },
      user: { age: "25-29", city: null },
    },
  });
  const wrong = await client.POST("/rank", {
    body: { user_id: "u720", candidates: [{ item_id: "i1", of_another_bundle: [1, "a"] }] },
  });
  const batch = await client.POST("/rank/batch", {
    body: [
      { user_id: "u720", candidates: ["i586", "i390"] },
      { user_id: "u720", candidates: [] },
    ],
  });
  const model = await client.GET("/model");
  const metrics = await client.GET("/metrics", { parseAs: "text" });

  // What the types must refuse; where they do not, the comment itself is the error.
  // @ts-expect-error candidates are needed
  const without: components["schemas"]["RankRequest"] = { user_id: "u720" };
  // @ts-expect-error no request has such a key
  const misspelt: components["schemas"]["RankRequest"] = { user_id: "u720", candidates: [], topk: 3 };
  // @ts-expect-error this kind is of another status
  const elsewhere: components["schemas"]["Error422"]["error"]["kind"] = "overloaded";
  void [without, misspelt, elsewhere];

  return {
    readme: told(readme.response, readme.data, readme.error),
    features: told(features.response, features.data, features.error),
    shown: shown.map((one) => told(one.response, one.data, one.error).status),
    request_id: features.data?.request_id,
    wrong: told(wrong.response, wrong.data, wrong.error),
    batch: batch.data?.map((one) => ("error" in one ? one.error.kind : one.items.length)),
    model: model.data && {
      version: model.data.version,
      defaults: model.data.features.filter((one) => one.default !== null).map((one) => one.name),
      attributes: model.data.catalog.attributes,
      limit: model.data.limits.max_candidates,
    },
    metrics: metrics.data?.includes("ranker_requests_total"),
  };
}
