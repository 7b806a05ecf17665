/** `gw.admin`: keys, budgets, prices, providers, routing rules. What changes here is in force at once. */

import { below, type Client, type RequestOptions } from "../client";
import type { WithMeta } from "../meta";
import type { APIPromise } from "../promise";
import type {
  ApiKey,
  ApiKeyCreateParams,
  ApiKeyLimits,
  Budget,
  BudgetParams,
  IssuedApiKey,
  Price,
  PriceParams,
  ProviderInfo,
  ProviderParams,
  RoutingRule,
  RoutingRuleParams,
} from "../types/admin";
import type { List } from "../types/records";

/** Entries of one kind that are made, replaced and deleted whole. */
export class Entries<Shown extends object, Params extends object, New extends object = Params> {
  #client: Client;
  #path: string;
  /** @internal */
  constructor(client: Client, path: string) {
    this.#client = client;
    this.#path = path;
  }

  list(options?: RequestOptions): APIPromise<List<Shown> & WithMeta> {
    return this.#client.json("GET", this.#path, {}, options);
  }

  create(params: New, options?: RequestOptions): APIPromise<Shown & WithMeta> {
    return this.#client.json("POST", this.#path, { body: params }, options);
  }

  retrieve(id: string | number, options?: RequestOptions): APIPromise<Shown & WithMeta> {
    return this.#client.json("GET", below(this.#path, id), {}, options);
  }

  /** Replaces an entry. */
  update(id: string | number, params: Params, options?: RequestOptions): APIPromise<Shown & WithMeta> {
    return this.#client.json("PUT", below(this.#path, id), { body: params }, options);
  }

  delete(id: string | number, options?: RequestOptions): Promise<void> {
    return this.#client.done("DELETE", below(this.#path, id), {}, options);
  }
}

export class Keys {
  #client: Client;
  /** @internal */
  constructor(client: Client) {
    this.#client = client;
  }

  list(options?: RequestOptions): APIPromise<List<ApiKey> & WithMeta> {
    return this.#client.json("GET", "/v1/admin/keys", {}, options);
  }

  /** Makes a key; its text is in the answer, and never shown again. */
  create(params: ApiKeyCreateParams = {}, options?: RequestOptions): APIPromise<IssuedApiKey & WithMeta> {
    return this.#client.json("POST", "/v1/admin/keys", { body: params }, options);
  }

  retrieve(id: string, options?: RequestOptions): APIPromise<ApiKey & WithMeta> {
    return this.#client.json("GET", below("/v1/admin/keys", id), {}, options);
  }

  /** Changes what is given, and leaves the rest. */
  update(id: string, changes: ApiKeyLimits, options?: RequestOptions): APIPromise<ApiKey & WithMeta> {
    return this.#client.json("PATCH", below("/v1/admin/keys", id), { body: changes }, options);
  }

  /** Gives a key a new secret; the old one goes on working for `grace_seconds` (a day). */
  rotate(id: string, params: { grace_seconds?: number } = {}, options?: RequestOptions): APIPromise<IssuedApiKey & WithMeta> {
    return this.#client.json("POST", below("/v1/admin/keys", id, "/rotate"), { body: params }, options);
  }

  /** Revokes a key. */
  delete(id: string, options?: RequestOptions): Promise<void> {
    return this.#client.done("DELETE", below("/v1/admin/keys", id), {}, options);
  }
}

export class Admin {
  readonly keys: Keys;
  readonly budgets: Entries<Budget, BudgetParams>;
  readonly prices: Entries<Price, PriceParams>;
  readonly providers: Entries<ProviderInfo, ProviderParams, ProviderParams & { id: string }>;
  readonly routingRules: Entries<RoutingRule, RoutingRuleParams>;

  /** @internal */
  constructor(client: Client) {
    this.keys = new Keys(client);
    this.budgets = new Entries(client, "/v1/admin/budgets");
    this.prices = new Entries(client, "/v1/admin/prices");
    this.providers = new Entries(client, "/v1/admin/providers");
    this.routingRules = new Entries(client, "/v1/admin/routing-rules");
  }
}
