{
  lib,
  stdenv,
  buildGoModule,
  installShellFiles,
  makeBinaryWrapper,
  bash,
  git,
  nix,
  openssh,
  version ? "0-unstable",
}:

let
  # Machines of the other architecture are handed this program for it.
  otherArch = if stdenv.hostPlatform.isAarch64 then "amd64" else "arm64";
in
buildGoModule (finalAttrs: {
  pname = "provision";
  inherit version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../go.mod
      ../go.sum
      ../cmd
      ../disko
      ../hosts
      ../images
      ../installer
      ../internal
      ../pxe
    ];
  };

  vendorHash = "sha256-z0mOlce1CTo1NZxPJZ2SlF4rHdU2phFni6VRevu41YM=";

  subPackages = [ "cmd/provision" ];

  env.CGO_ENABLED = 0;

  ldflags = [
    "-s"
    "-w"
    "-X main.version=${finalAttrs.version}"
  ];

  nativeBuildInputs = [
    installShellFiles
    makeBinaryWrapper
  ];

  # The first stage runs on machines of both architectures, and is embedded.
  preBuild = ''
    for arch in amd64:x86_64 arm64:aarch64; do
      GOOS=linux GOARCH=''${arch%:*} go build -ldflags "-s -w -buildid=" -o "$TMPDIR/firststage" ./internal/firststage
      gzip -9n < "$TMPDIR/firststage" > images/firststage/''${arch#*:}.gz
    done
  '';

  # Else the modules would be fetched after a build.
  overrideModAttrs = _: { preBuild = ""; };

  # They need root, network namespaces and virtual machines.
  doCheck = false;

  postInstall = ''
    GOARCH=${otherArch} go build -ldflags "-s -w -X main.version=${finalAttrs.version}" \
      -o $out/bin/provision-linux-${otherArch} ./cmd/provision
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd provision \
      --bash <($out/bin/provision completion bash) \
      --fish <($out/bin/provision completion fish) \
      --zsh <($out/bin/provision completion zsh)
  '';

  # Behind PATH, so that the nix of the system is used where there is one.
  postFixup = ''
    wrapProgram $out/bin/provision --suffix PATH : ${
      lib.makeBinPath [
        bash
        git
        nix
        openssh
      ]
    }
  '';

  meta = {
    description = "Netboot machines and install NixOS on them from a flake";
    license = with lib.licenses; [
      mit
      gpl2Only # the iPXE programs that are handed out
    ];
    sourceProvenance = with lib.sourceTypes; [
      fromSource
      binaryFirmware
    ];
    maintainers = [ ];
    mainProgram = "provision";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
})
