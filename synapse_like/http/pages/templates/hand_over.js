// Hands the credentials to the client that shows this page. It has set a function, or sets one when the page is there:
// matrixLogin.onLogin(response), onLogin(response) or matrixRegistration.onRegistered(homeServerUrl, userId, token).
// The chat page of this server waits for them in this very tab, and has left a note that it does.
(function () {
  "use strict";
  var node = document.getElementById("credentials");
  var told = JSON.parse(node.textContent);
  var given = false;
  node.parentNode.removeChild(node);

  function offer(holder, name) {
    var hook = holder[name];
    function call() {
      if (typeof hook !== "function" || given) {
        return;
      }
      given = true;
      if (hook.length >= 3) {
        hook.call(holder, told.home_server_url, told.credentials.user_id, told.credentials.access_token);
      } else {
        hook.call(holder, told.credentials);
      }
    }
    Object.defineProperty(holder, name, {
      get: function () { return hook; },
      set: function (value) { hook = value; setTimeout(call, 0); }
    });
    call();
  }

  var expected = Number(sessionStorage.getItem("synapse_like.expects_login"));
  if (expected > Date.now() - 3600 * 1000) {
    sessionStorage.removeItem("synapse_like.expects_login");
    sessionStorage.setItem("synapse_like.login", JSON.stringify(told.credentials));
    location.replace("/");
    return;
  }

  window.matrixLogin = window.matrixLogin || {};
  window.matrixRegistration = window.matrixRegistration || {};
  offer(window.matrixLogin, "onLogin");
  offer(window.matrixRegistration, "onRegistered");
  offer(window, "onLogin");
})();
