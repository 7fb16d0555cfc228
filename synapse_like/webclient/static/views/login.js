/** The way in: a password, typed in here; every other way is taken on a page of the server. */

import { Api } from "../api.js";
import { goToFallback } from "../model/session.js";
import { byId } from "./dom.js";

const PASSWORD = "m.login.password";
const WORDS = {
  login: {
    title: "Log in",
    otherWay: "Log in another way",
    onlyWay: "Continue to log in",
    question: "No account yet?",
    to: "Create one",
  },
  register: {
    title: "Create an account",
    otherWay: "Register another way",
    onlyWay: "Continue to register",
    question: "You have an account?",
    to: "Log in",
  },
};

/**
 * @param {{message: ?string, onSession: (session: object) => void}} options
 */
export function showLogin({ message, onSession }) {
  const api = new Api();
  /** @type {keyof WORDS} */
  let purpose = "login";
  byId("login-view").hidden = false;
  byId("login-where").textContent = `at ${location.host}`;
  say("login-message", message);
  byId("switch-form").onclick = () => show(purpose === "login" ? "register" : "login");
  byId("other-way").onclick = () => goToFallback(purpose);
  takes("login-form", () => api.logIn(value("login-user"), byId("login-password").value));
  takes("register-form", () => {
    if (byId("register-password").value !== byId("register-repeated").value) {
      byId("register-repeated").focus();
      throw new Error("The two passwords are not the same.");
    }
    return api.register(value("register-user"), byId("register-password").value);
  });
  show("login");

  /** @param {keyof WORDS} which */
  async function show(which) {
    purpose = which;
    const words = WORDS[which];
    byId("login-title").textContent = words.title;
    document.title = words.title;
    byId("switch-question").textContent = words.question;
    byId("switch-form").textContent = words.to;
    say("login-fault", null);
    offer([[PASSWORD]]);
    const first = which === "login" ? "login-user" : "register-user";
    byId(first).focus();
    try {
      const flows = await api.flows(which);
      if (purpose === which) offer(flows.map((flow) => flow.stages ?? [flow.type]));
    } catch (error) {
      say("login-fault", error.message);
    }
  }

  /** @param {string[][]} flows what the server offers, each a list of stages */
  function offer(flows) {
    const byPassword = flows.some((flow) => flow.length === 1 && flow[0] === PASSWORD);
    const inOtherWays = flows.some((flow) => flow.length > 1 || flow[0] !== PASSWORD);
    byId("login-form").hidden = purpose !== "login" || !byPassword;
    byId("register-form").hidden = purpose !== "register" || !byPassword;
    byId("other-way").hidden = !inOtherWays;
    byId("other-way").textContent = WORDS[purpose][byPassword ? "otherWay" : "onlyWay"];
    byId("other-way").className = byPassword ? "other" : "main";
    say("login-closed", flows.length ? null : "Registration is closed on this server.");
  }

  function takes(id, submit) {
    const form = byId(id);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (form.ariaBusy === "true") return;
      form.ariaBusy = "true";
      say("login-fault", null);
      try {
        const session = await submit();
        form.reset();
        byId("login-view").hidden = true;
        onSession(session);
      } catch (error) {
        say("login-fault", error.message);
      } finally {
        form.ariaBusy = null;
      }
    });
  }
}

function value(id) {
  return byId(id).value.trim();
}

function say(id, sentence) {
  const place = byId(id);
  place.hidden = !sentence;
  place.textContent = sentence ?? "";
}
