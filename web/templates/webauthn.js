'use strict';
// Forms with data-webauthn ask the browser for a credential (create) or an assertion (get) before they are sent.
const ask = async (form) => {
  const options = JSON.parse(form.dataset.options);
  if (form.dataset.webauthn === 'create') {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
};

for (const form of document.querySelectorAll('form[data-webauthn]')) {
  // Until now the button was disabled: a form sent without the browser's answer would be refused.
  form.querySelector('button').disabled = false;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      const credential = await ask(form);
      form.elements.credential.value = JSON.stringify(credential.toJSON());
      form.submit(); // without another submit event
    } catch (error) {
      form.querySelector('[role="alert"]').textContent = `The security key did not do it (${error.name}). Nothing was sent.`;
    }
  });
}
