// What the page asks of its server.

const token = remembered();

// The token is in the address that structsam demo printed, behind #. It goes from the address bar at once.
function remembered() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer
  }
}

async function answer(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ServerError(0, "The server does not answer. Start structsam demo again; what you see here stays.");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new ServerError(response.status, said.error ?? `The server answers with ${response.status}.`);
  }
  return response;
}

export const get = async (path) => (await answer(path)).json();
export const blob = async (path) => (await answer(path)).blob();
export const post = async (path, said) =>
  (await answer(path, { method: "POST", body: JSON.stringify(said) })).json();

export async function embed(file, name) {
  return (await answer(`/embed?name=${encodeURIComponent(name)}`, { method: "POST", body: file })).json();
}
