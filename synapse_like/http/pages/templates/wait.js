// Goes on when the link in the mail has been confirmed, on whatever device.
(function () {
  "use strict";
  var form = document.getElementById("waiting");
  function look() {
    fetch(form.dataset.look, {method: "POST", body: new URLSearchParams(new FormData(form))}).then(function (answer) {
      return answer.ok ? answer.json() : {is_over: true};
    }).then(function (found) {
      if (found.is_confirmed) {
        form.submit();
      } else if (!found.is_over) {
        setTimeout(look, 2000);
      }
    }, function () { setTimeout(look, 10000); });
  }
  setTimeout(look, 1000);
})();
