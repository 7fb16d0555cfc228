// Certified OpenID providers (https://openid.net/certification), for the tests: `node provider.mjs SETTINGS`.
//
// SETTINGS is a JSON list of {port, clients}, each a provider of its own on loopback. Anybody can log in, by any name;
// what is typed in as login becomes subject and user name, and whose name begins with "unsure" has no confirmed address.

import { Provider } from "oidc-provider";

for (const { port, clients } of JSON.parse(process.argv[2])) {
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients,
    claims: {
      openid: ["sub"],
      email: ["email", "email_verified"],
      profile: ["name", "preferred_username"],
    },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id,
        preferred_username: id,
        name: `${id} of ${port}`,
        email: `${id}@example.org`,
        email_verified: !id.startsWith("unsure"),
      }),
    }),
    cookies: { names: { session: `session_${port}`, interaction: `interaction_${port}`, resume: `resume_${port}` } },
    pkce: { required: () => true, methods: ["S256"] },
    features: { userinfo: { enabled: true } },
  });
  provider.on("server_error", (_, error) => console.error(error));
  provider.on("grant.error", (_, error) => console.error(String(error), error.error_description));
  provider.on("authorization.error", (_, error) => console.error(String(error), error.error_description));
  provider.listen(port, "127.0.0.1", () => console.log(`listening on ${port}`));
}
